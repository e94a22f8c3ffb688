"""A private CA and server certificates, made by the openssl command line.

Kinds: good (127.0.0.1 and localhost, signed by ca.pem), wrong_host (the same
CA, another name), expired, unknown_ca (signed by a CA that nobody is told of).
"""

import os
import subprocess

KINDS = ("good", "wrong_host", "expired", "unknown_ca")
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*arguments):
    subprocess.run(("openssl",) + arguments, check=True,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def make_ca(directory, name):
    cert = os.path.join(directory, name + ".pem")
    if not os.path.exists(cert):
        openssl("req", "-x509", *KEY, "-days", "3650",
                "-subj", "/CN=llm_sim " + name,
                "-addext", "keyUsage=critical,keyCertSign,cRLSign",
                "-keyout", os.path.join(directory, name + ".key"),
                "-out", cert)
    return cert


def make(directory, kind):
    """Makes what is missing; the paths of (certificate, key)."""
    base = os.path.join(directory, kind)
    cert, key, request = base + ".pem", base + ".key", base + ".csr"
    if os.path.exists(cert):
        return cert, key
    ca = "unknown" if kind == "unknown_ca" else "ca"
    make_ca(directory, "ca")
    make_ca(directory, ca)
    names = "DNS:other.invalid" if kind == "wrong_host" \
        else "DNS:localhost,IP:127.0.0.1"
    openssl("req", "-new", *KEY, "-subj", "/CN=localhost",
            "-addext", "subjectAltName=" + names,
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", key, "-out", request)
    sign(directory, ca, request, cert, kind == "expired")
    return cert, key


def sign(directory, ca, request, cert, expired):
    """Signs a request with a CA of this directory.

    "openssl ca" alone can date a certificate back, and it wants a database.
    """
    database = cert + ".index"
    config = cert + ".cnf"
    open(database, "w").close()
    with open(config, "w") as out:
        out.write("[ca]\ndefault_ca = sim\n[sim]\n"
                  "database = %s\nserial = %s.serial\n"
                  "rand_serial = yes\nnew_certs_dir = %s\n"
                  "default_md = sha256\npolicy = any\n"
                  "copy_extensions = copy\nunique_subject = no\n"
                  "[any]\ncommonName = supplied\n"
                  % (database, database, directory))
    dates = ("20200101000000Z", "20210101000000Z") if expired \
        else ("20200101000000Z", "20491231000000Z")
    openssl("ca", "-batch", "-notext", "-config", config,
            "-cert", os.path.join(directory, ca + ".pem"),
            "-keyfile", os.path.join(directory, ca + ".key"),
            "-startdate", dates[0], "-enddate", dates[1],
            "-in", request, "-out", cert)
