"""Dashboards as code, what tries their queries, and what draws them."""
