"""What is kept between runs: entries under content keys, made once, whole or not at all."""
