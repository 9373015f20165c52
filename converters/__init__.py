"""Nets and weights from one form into another, and the proof that nothing changed on the way."""
