"""Attacks that reach for a network: ports, the metadata address, names, raw packets, local sockets."""

from adversary.arenas import Arena
from adversary.probing import Topic, any_done, says

probe = Topic("the network")


@probe
async def a_port_of_the_machine(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            return _canaries([socket.create_connection(("127.0.0.1", facts["port"]), 2).recv(100)])
        """,
    )
    return arena.secrets.service in found


@probe
async def the_metadata_address(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        def attack(facts):
            socket.create_connection(("169.254.169.254", 80), 2)
            return "reached"
        """,
    )


@probe
async def a_name_server(arena: Arena) -> bool:
    found = await says(
        arena,
        """
        def attack(facts):
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            asking.settimeout(2)
            asking.sendto(b"who", ("127.0.0.1", facts["dns"]))
            return _canaries([asking.recv(200)])
        """,
    )
    return arena.secrets.service in found


@probe
async def raw_packets(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        def attack(facts):
            made = []
            for family in (socket.AF_INET, socket.AF_PACKET, socket.AF_NETLINK):
                try:
                    made.append(str(socket.socket(family, socket.SOCK_RAW, 1 if family == socket.AF_INET else 0)))
                except OSError:
                    continue
            return made
        """,
    )


@probe
async def a_local_socket_of_the_server(arena: Arena) -> bool:
    return await any_done(
        arena,
        """
        def attack(facts):
            reached = []
            for path in facts["sockets"]:
                try:
                    connection = socket.socket(socket.AF_UNIX)
                    connection.settimeout(2)
                    connection.connect(path)
                    reached.append(path)
                except OSError:
                    continue
            return reached
        """,
    )
