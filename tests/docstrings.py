"""jsonargparse parses the sources of Lightning and of all settings for each command line; here, only once."""

import functools

from docstring_parser import attrdoc

_read = attrdoc.AttributeDocstrings.get_attr_docs
_docs = functools.cache(lambda component: _read(attrdoc.AttributeDocstrings(), component))
attrdoc.AttributeDocstrings.get_attr_docs = lambda self, component: _docs(component)
