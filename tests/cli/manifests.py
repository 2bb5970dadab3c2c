"""Validates the documents of a YAML file strictly against the API schemas of versions of Kubernetes, and prints the
documents as JSON. Usage: manifests.py FILE VERSION..."""

import json
import sys

import kubernetes_validate
import yaml

path, *versions = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    documents = [document for document in yaml.safe_load_all(file) if document]
for document in documents:
    name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
    for version in versions:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            sys.exit(f"{path}: {name}, Kubernetes {version}: {error}")
json.dump(documents, sys.stdout)
