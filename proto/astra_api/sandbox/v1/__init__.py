"""`astra.sandbox.v1`: generated stubs (`sandbox_pb2`, `sandbox_pb2_grpc`)."""
