"""MeetKai's Functionary 3.1: `<function=name>` and the arguments as JSON."""

from llamakit.chat.tools.format import ToolFormat

FUNCTIONARY = ToolFormat(
    name="functionary", summary="<function=name>{JSON}</function>", signs=(("<function=", "</function>"),),
    begin="<function=", end="</function>", before_name="", after_name=">", after_arguments="", plain_name=True,
)  # fmt: skip
