"""The gRPC contract of the data plane. The stubs beside `sandbox.proto` are generated: `make proto`."""
