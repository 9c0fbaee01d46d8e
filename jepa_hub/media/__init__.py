"""Pictures and videos from anywhere to frames and their times: opening, decoding, sampling, resizing."""
