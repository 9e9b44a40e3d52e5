"""What the platform can do, measured on the machine at hand: ``make bench`` lists the benchmarks, ``make bench NAME=…`` runs one."""
