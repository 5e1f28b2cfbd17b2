"""What Bun's sockets cannot do. Prints one line of JSON.

collide HOST:PORT...   one local port to several addresses at once; what each connection answers
halfclose HOST PORT    ends the sending side after the request; the answer that comes, or the error
"""
import json
import socket
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: keep-alive\r\n\r\n"


def ask(connection):
    connection.sendall(REQUEST)
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"\n"):
        chunk = connection.recv(4096)
        if not chunk:
            break
        received += chunk
    return received.split(b"\r\n\r\n")[-1].decode().strip()


def collide(targets):
    connections = []
    local_port = 0
    for target in targets:
        host, port = target.split(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.settimeout(5)
        connection.bind(("", local_port))
        local_port = connection.getsockname()[1]
        connections.append((connection, (host, int(port))))
    answers = []
    for connection, address in connections:
        try:
            connection.connect(address)
            answers.append(ask(connection))
        except OSError as error:
            answers.append(repr(error))
    # All are open: each still answers.
    for place, (connection, _) in enumerate(connections):
        try:
            answers[place] = [answers[place], ask(connection)]
        except OSError as error:
            answers[place] = [answers[place], repr(error)]
    return answers


def halfclose(host, port):
    connection = socket.create_connection((host, int(port)), 5)
    connection.sendall(b"question\n")
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(20)
    try:
        return connection.recv(100).decode().strip()
    except OSError as error:
        return repr(error)


command, *rest = sys.argv[1:]
print(json.dumps(collide(rest) if command == "collide" else halfclose(*rest)))
