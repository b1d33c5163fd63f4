"""Operations as data: encoding, decoding, validation and errors, without I/O."""
