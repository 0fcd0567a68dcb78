"""The families that we know, a small file each; of several that fit a template the first counts."""

from llamakit.chat.tools.families.cohere import COMMAND_R, COMMAND_R7B
from llamakit.chat.tools.families.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from llamakit.chat.tools.families.functionary import FUNCTIONARY, FUNCTIONARY_32
from llamakit.chat.tools.families.glm import GLM
from llamakit.chat.tools.families.gpt_oss import GPT_OSS
from llamakit.chat.tools.families.granite import GRANITE
from llamakit.chat.tools.families.hermes import HERMES
from llamakit.chat.tools.families.kimi import KIMI
from llamakit.chat.tools.families.lfm2 import LFM2
from llamakit.chat.tools.families.llama3 import LLAMA3
from llamakit.chat.tools.families.llama4 import LLAMA4
from llamakit.chat.tools.families.mistral import MISTRAL, MISTRAL_ARGS
from llamakit.chat.tools.families.qwen3_coder import QWEN3_CODER

FORMATS = (
    GPT_OSS, DEEPSEEK_V31, DEEPSEEK_V3, KIMI, QWEN3_CODER, GLM, MISTRAL_ARGS, MISTRAL, COMMAND_R7B, COMMAND_R, GRANITE,
    FUNCTIONARY, FUNCTIONARY_32, HERMES, LFM2, LLAMA4, LLAMA3,
)  # fmt: skip
