"""Keys and tokens for the measured gateway, with the standard library alone. The RSA key is derived from a fixed seed: every
run measures the same key. It is worth nothing outside of this measurement."""

import base64
import hashlib
import hmac
import json
import random
import time

SECRET = "0123456789abcdef0123456789abcdef0123456789abcdef"
RSA_ISSUER = "https://idp.test"
HMAC_ISSUER = "dev"
AUDIENCE = "gatepost"

# DER of `DigestInfo` for SHA-256, without the digest (RFC 8017 section 9.2, note 1).
SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def integer_bytes(number):
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


class RsaKey:
    """An RSA key of 2048 bits with the public exponent 65537."""

    def __init__(self, seed=1):
        rng = random.Random(seed)
        p, q = prime(rng, 1024), prime(rng, 1024)
        self.modulus, self.exponent = p * q, 65537
        self.private_exponent = pow(self.exponent, -1, (p - 1) * (q - 1))

    def jwks(self):
        """The public half as a JSON Web Key Set."""
        key = {"kty": "RSA", "kid": "rs1", "use": "sig", "alg": "RS256"}
        key.update(n=base64url(integer_bytes(self.modulus)), e=base64url(integer_bytes(self.exponent)))
        return json.dumps({"keys": [key]})

    def sign(self, data):
        """RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 section 8.2)."""
        size = (self.modulus.bit_length() + 7) // 8
        info = SHA256_PREFIX + hashlib.sha256(data).digest()
        padded = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
        return pow(int.from_bytes(padded, "big"), self.private_exponent, self.modulus).to_bytes(size, "big")


def prime(rng, bits):
    while True:
        # The two highest bits are set: the product of two such primes has exactly twice as many bits.
        candidate = rng.getrandbits(bits) | (3 << (bits - 2)) | 1
        if all(candidate % small for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)) and is_prime(rng, candidate):
            if (candidate - 1) % 65537:
                return candidate


def is_prime(rng, number, rounds=16):
    """Miller-Rabin."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(rounds):
        power = pow(rng.randrange(2, number - 1), odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def token(algorithm, key=None, subject="alice@example.com"):
    """A token for a day: `key` is an `RsaKey` for RS256, and unused for HS256."""
    now = int(time.time())
    issuer, kid = (RSA_ISSUER, "rs1") if algorithm == "RS256" else (HMAC_ISSUER, "dev")
    header = {"alg": algorithm, "kid": kid, "typ": "JWT"}
    claims = {"iss": issuer, "aud": AUDIENCE, "sub": subject, "role": "analyst", "scope": "mcp", "iat": now}
    claims.update(exp=now + 86400, jti="0192f3a0-0000-7000-8000-000000000001")
    parts = [base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)]
    signed = ".".join(parts).encode()
    if algorithm == "RS256":
        signature = key.sign(signed)
    else:
        signature = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    return ".".join([*parts, base64url(signature)])
