"""What the parts of astra-farm must agree on: custom resources, records of the data flow, the gRPC contract.

Importable without torch, kopf or a gRPC server.
"""
