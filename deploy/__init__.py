"""Running Siding: on this machine (`local`), behind an example origin (`example_origin`) that needs no Node."""
