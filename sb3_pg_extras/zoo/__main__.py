"""``python -m sb3_pg_extras.zoo`` is the ``sb3-pg-extras`` command."""

from sb3_pg_extras.zoo import main

main()
