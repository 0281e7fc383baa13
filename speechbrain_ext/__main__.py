"""``python -m speechbrain_ext``: the command line."""

from speechbrain_ext.cli import main

main()
