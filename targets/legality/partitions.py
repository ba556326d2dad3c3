"""How onnxruntime groups the nodes that an accelerator takes: the pieces between which data crosses to the CPU."""

from collections import deque
from collections.abc import Collection

from edgepress.onnx_graph.view import Graph, Node


def partitions(graph: Graph, taken: Collection[str]) -> list[list[Node]]:
    """Group the nodes named in ``taken`` as onnxruntime does (CreateSupportedPartitionNodeGroups).

    Nodes come in topological order; a group grows until a node is ready that the accelerator does not take and that
    reads from the group. Nodes that only compute constants are gone by then.
    """
    nodes = [node for node in graph.nodes if not node.folded]
    taken = set(taken)
    readers, waiting = _edges(nodes)
    ready = deque(index for index, count in enumerate(waiting) if count == 0)
    groups: list[list[Node]] = []
    group: list[Node] = []
    border: set[int] = set()  # nodes that read from the group
    later: deque[int] = deque()  # nodes that the accelerator leaves and that read from the group: they close it
    while ready or later:
        if not ready:
            if group:
                groups.append(group)
            group, border = [], set()
            ready, later = later, deque()
            continue
        index = ready.popleft()
        is_taken = nodes[index].name in taken
        if not is_taken and index in border:
            later.append(index)
            continue
        if is_taken:
            group.append(nodes[index])
            border.update(readers[index])
            border.discard(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    return [*groups, group] if group else groups


def _edges(nodes: list[Node]) -> tuple[list[list[int]], list[int]]:
    """For each node the nodes that read what it makes, and on how many it waits."""
    makers = {value.name: index for index, node in enumerate(nodes) for value in node.outputs if value}
    readers: list[list[int]] = [[] for _ in nodes]
    waiting = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for maker in {makers[name] for name in node.reads if name in makers}:
            readers[maker].append(index)
            waiting[index] += 1
    return readers, waiting
