"""Everything of Kedge that runs."""
