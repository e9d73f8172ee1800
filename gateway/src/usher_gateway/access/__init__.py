"""Who may do what at the admin port, and who did what: tokens, links for customers, and the audit log. No HTTP."""
