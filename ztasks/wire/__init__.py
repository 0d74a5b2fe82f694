"""What travels: messages, payloads, callables. Decodes by schema; never decides and does no I/O."""
