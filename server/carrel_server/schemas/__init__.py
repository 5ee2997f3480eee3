"""What clients may send, as pydantic models. Answers are plain dicts: pydantic never touches a response."""
