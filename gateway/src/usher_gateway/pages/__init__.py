"""Pages for people: server-rendered, from the API's answers. Only links for customers are looked up without it.

A page asks the gateway's own admin port with its session's token, so that a person sees and does exactly what the
token permits. ``server.py`` has the routes, the session and the headers; each page is a function that turns answers
into its template's values.
"""
