"""Someone's own pictures with annotations of any common form: pairing, checking, splitting, writing."""
