"""`python -m services` is `earshot`."""

from services.cli import main

raise SystemExit(main())
