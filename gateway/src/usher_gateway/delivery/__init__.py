"""The steps of a delivery's path: lanes, render, sign, attempt, outcome, retry, circuit."""
