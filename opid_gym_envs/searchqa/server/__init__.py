"""The search server: any retriever behind ``POST /retrieve``, for clients of several projects at once.

`app` has the routes, `dialects` reads and writes bodies, `batching` makes batches of requests, `replicas` runs several
servers behind one address. Started by ``opid-gym serve search``.
"""
