"""requests, HTTP, model-versions -> predictions."""
