"""The index that prune and replay read the history by: in the order of the ledger's sequence numbers."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Concurrently: on a platform with a long history sessions go on being written while it is built.
    atomic = False
    dependencies = [("sessions_app", "0003_session_life")]
    operations = [
        AddIndexConcurrently(model_name="sessionevent", index=models.Index(fields=["seq"], name="history_in_order")),
    ]
