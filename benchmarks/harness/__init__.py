"""What benchmarks share: the platform in a temporary folder, real web servers, client processes, a bare WebSocket, tables and plots."""
