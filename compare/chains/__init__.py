"""Chains of turns: what a conversation of many turns costs, with its history sent or kept and its connection new or kept."""
