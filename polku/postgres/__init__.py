"""Events as rows of a PostgreSQL table."""
