"""Pictures in and out: what people bring is hostile until checked."""
