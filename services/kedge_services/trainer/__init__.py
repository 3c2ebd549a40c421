"""retrain-requests, examples -> candidates, artefact store."""
