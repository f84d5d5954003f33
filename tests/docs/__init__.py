"""The documents: their code runs, their prose keeps to the house's words, and their site builds."""
