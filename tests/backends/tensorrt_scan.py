"""Which members of TensorRT's objects our sources use, found by following types through them.

    used(["workbench/backends/tensorrt_build.py"], protocols)      # {("Builder", "create_network"), ...}, [accesses of no protocol]

Followed: annotations, attributes of self, ``api.module``, what calls return according to the protocols, tuples, lists and loops.
"""

from __future__ import annotations

import ast

OWN = {"__init__", "fresh"}
"""Methods of our subclasses of TensorRT's classes that TensorRT does not call."""

API = {"module": "TensorRT", "logger": "ILogger", "builder": ("call", "Builder"), "runtime": ("call", "Runtime")}


def protocols(path):
    """Class -> member -> annotation of what it is or returns; and the parameters of its methods."""
    members, parameters = {}, {}
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ClassDef) or not any(
            isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases
        ):
            continue
        members[node.name] = {}
        for item in node.body:
            if isinstance(item, ast.AnnAssign):
                members[node.name][item.target.id] = item.annotation
            elif isinstance(item, ast.FunctionDef):
                members[node.name][item.name] = item.returns
                parameters[node.name, item.name] = [each.arg for each in item.args.args[1:]]
    return members, parameters


class Scan(ast.NodeVisitor):
    def __init__(self, members):
        self.members, self.used, self.wrong = members, set(), []
        self.fields, self.scopes, self.bases = {}, [{}], {}

    def of_annotation(self, node):
        """ "ICudaEngine", ("list", "ParserError"), ("type", "ILogger"), ("call", "Builder"), "Api" or None."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.BinOp):
            return self.of_annotation(node.left) or self.of_annotation(node.right)
        if isinstance(node, ast.Name):
            return node.id if node.id in self.members or node.id == "Api" else None
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            inner = node.slice
            if node.value.id == "Callable" and isinstance(inner, ast.Tuple):
                return "call", self.of_annotation(inner.elts[1])
            if node.value.id in ("list", "Sequence", "type"):
                return ("type" if node.value.id == "type" else "list"), self.of_annotation(inner)
        return None

    def kind(self, node):
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), None)
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self.fields.get(node.attr)
            owner = self.kind(node.value)
            if owner == "Api":
                return API.get(node.attr)
            owner = owner[1] if isinstance(owner, tuple) and owner[0] == "type" else owner
            if owner in self.members:
                return self.of_annotation(self.members[owner].get(node.attr))
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("looked_over", "import_tensorrt", "Api"):
                return "Api"
            found = self.kind(node.func)
            return found[1] if isinstance(found, tuple) and found[0] == "call" else found
        if isinstance(node, ast.ListComp):
            self.comprehension(node)
            return "list", self.kind(node.elt)
        return None

    def comprehension(self, node):
        for each in node.generators:
            found = self.kind(each.iter)
            if isinstance(found, tuple) and found[0] == "list":
                self.bind(each.target, found[1])

    def bind(self, target, found):
        if isinstance(target, ast.Name):
            self.scopes[-1][target.id] = found
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self" and found:
            self.fields[target.attr] = found

    def visit_Assign(self, node):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for each, value in zip(target.elts, node.value.elts, strict=True):
                    self.bind(each, self.kind(value))
            else:
                self.bind(target, self.kind(node.value))
        self.generic_visit(node)

    def visit_For(self, node):
        found = self.kind(node.iter)
        if isinstance(found, tuple) and found[0] == "list":
            self.bind(node.target, found[1])
        self.generic_visit(node)

    def visit_ListComp(self, node):
        self.comprehension(node)
        self.generic_visit(node)

    visit_SetComp = visit_GeneratorExp = visit_ListComp

    def visit_FunctionDef(self, node):
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.scopes.append({each.arg: self.of_annotation(each.annotation) for each in every})
        self.generic_visit(node)
        self.scopes.pop()

    def visit_ClassDef(self, node):
        for base in node.bases:
            found = self.kind(base)
            if isinstance(found, tuple) and found[0] == "type":
                for name in {item.name for item in node.body if isinstance(item, ast.FunctionDef)} - OWN:
                    (self.used.add if name in self.members[found[1]] else self.wrong.append)((found[1], name))
        outer, self.fields = self.fields, {}
        self.visit_fields(node)
        self.generic_visit(node)
        self.fields = outer

    def visit_fields(self, node):
        """What __init__ and the class's annotations say of self, before any other method is read."""
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                self.fields[item.target.id] = self.of_annotation(item.annotation)
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                quiet = Scan(self.members)
                quiet.fields = self.fields
                quiet.scopes = list(self.scopes)
                quiet.visit_FunctionDef(item)

    def visit_Attribute(self, node):
        owner = self.kind(node.value)
        owner = owner[1] if isinstance(owner, tuple) and owner[0] == "type" else owner
        if owner in self.members and not node.attr.startswith("__"):
            (self.used.add if node.attr in self.members[owner] else self.wrong.append)((owner, node.attr))
        self.generic_visit(node)

    def visit_Call(self, node):
        if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr") and len(node.args) > 1:
            owner, name = self.kind(node.args[0]), node.args[1]
            if owner in self.members and isinstance(name, ast.Constant):
                (self.used.add if name.value in self.members[owner] else self.wrong.append)((owner, name.value))
        self.generic_visit(node)


def used(paths, members):
    found, wrong = set(), []
    for path in paths:
        scan = Scan(members)
        scan.visit(ast.parse(path.read_text()))
        found |= scan.used
        wrong += [(path.name, *each) for each in scan.wrong]
    return found, wrong
