"""Pure functions and state: no Kafka, clock, environment, logging or network."""
