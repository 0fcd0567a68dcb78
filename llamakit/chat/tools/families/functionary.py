"""MeetKai's Functionary 3.1 (`<function=name>` and the arguments as JSON), and 3.2 (`>>>` and whom it is for)."""

from llamakit.chat.tools.format import ToolFormat

FUNCTIONARY = ToolFormat(
    name="functionary", summary="<function=name>{JSON}</function>", signs=(("<function=", "</function>"),),
    begin="<function=", end="</function>", before_name="", after_name=">", after_arguments="", plain_name=True,
)  # fmt: skip
FUNCTIONARY_32 = ToolFormat(
    name="functionary-3.2", summary=">>>name and JSON", signs=((">>>all", ">>>${recipient}"),), begin=">>>",
    before_name="", after_name="\n", after_arguments="", plain_name=True, to_user="all",
)  # fmt: skip
