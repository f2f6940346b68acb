"""Certificates, nkeys and JWTs, made for the tests."""

import base64
import hashlib
import json
import subprocess

import nkeys


class Certificates:
    def __init__(self, folder):
        self.folder = folder
        self.ca = self.make_ca("ca")
        self.other_ca = self.make_ca("other")
        self.make_leaf("server", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self.make_leaf("client", "extendedKeyUsage=clientAuth")
        self.client_cert = str(folder / "client.pem")
        self.client_key = str(folder / "client.key")

    def server_config(self, more="", leaf="server"):
        cert, key = self.folder / f"{leaf}.pem", self.folder / f"{leaf}.key"
        return f'tls {{ cert_file: "{cert}", key_file: "{key}", {more} }}'

    def openssl(self, *arguments):
        command = ["openssl", *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    def make_ca(self, ca):
        self.openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={ca}"),
            *("-keyout", f"{ca}.key", "-out", f"{ca}.pem"),
        )
        return str(self.folder / f"{ca}.pem")

    def make_leaf(self, leaf, extension, days="2"):
        (self.folder / f"{leaf}.ext").write_text(extension)
        self.openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={leaf}"),
            *("-keyout", f"{leaf}.key", "-out", f"{leaf}.csr"),
        )
        self.openssl(
            *("x509", "-req", "-in", f"{leaf}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", days, "-extfile", f"{leaf}.ext", "-out", f"{leaf}.pem"),
        )


def make_nkey(prefix, letter):
    seed = nkeys.encode_seed(hashlib.sha256(letter).digest(), prefix)
    pair = nkeys.from_seed(bytearray(seed))
    return seed.decode(), pair.public_key.decode()


def make_operator():
    """An operator, an account with JetStream and a user, as JWTs: what `nsc` would make."""
    operator_seed, operator = make_nkey(nkeys.PREFIX_BYTE_OPERATOR, b"o")
    account_seed, account = make_nkey(nkeys.PREFIX_BYTE_ACCOUNT, b"a")
    user_seed, user = make_nkey(nkeys.PREFIX_BYTE_USER, b"j")
    limits = {
        **dict.fromkeys(("subs", "data", "payload", "conn", "leaf", "imports", "exports"), -1),
        **dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1),
        "wildcards": True,
    }
    operator_jwt = sign(operator_seed, operator, operator, {"type": "operator", "version": 2})
    claims = {"type": "account", "version": 2, "limits": limits}
    account_jwt = sign(operator_seed, operator, account, claims)
    claims = {"type": "user", "version": 2, "pub": {}, "sub": {}}
    claims.update(dict.fromkeys(("subs", "data", "payload"), -1))
    _, system = make_nkey(nkeys.PREFIX_BYTE_ACCOUNT, b"s")
    no_storage = {name: limit for name, limit in limits.items() if "storage" not in name}
    system_claims = {"type": "account", "version": 2, "limits": no_storage}
    system_jwt = sign(operator_seed, operator, system, system_claims)
    user_jwt = sign(account_seed, account, user, claims)
    rule = "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n"
    creds = rule.format(user_jwt)
    creds += f"-----BEGIN USER NKEY SEED-----\n{user_seed}\n------END USER NKEY SEED------\n"
    config = (
        f"operator: {operator_jwt}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account}: {account_jwt}, {system}: {system_jwt} }}\n"
        f"system_account: {system}\n"
    )
    return {"creds": creds, "config": config}


def sign(seed, issuer, subject, claims):
    def encoded(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = encoded(b'{"typ":"JWT","alg":"ed25519-nkey"}')
    body = {"iss": issuer, "sub": subject, "iat": 1700000000, "name": "t", "nats": claims}
    body["jti"] = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:26]
    signed = f"{head}.{encoded(json.dumps(body).encode())}"
    signature = nkeys.from_seed(bytearray(seed.encode())).sign(signed.encode())
    return f"{signed}.{encoded(signature)}"
