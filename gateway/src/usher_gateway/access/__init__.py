"""The rights of callers at the admin port: tokens, links for customers, and the audit log. No HTTP."""
