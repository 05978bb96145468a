"""The verb `report`: what runs found, as one HTML file that opens without a network."""
