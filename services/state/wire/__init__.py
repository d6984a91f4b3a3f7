"""The contract's side of the room: protos become nouns (requests) and nouns become protos (answers)."""
