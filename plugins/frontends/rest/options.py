"""The server's settings: config keys `frontend.rest.*`, and with `command.FLAGS` the flags of `llamakit serve`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llamakit.errors import UsageError
from llamakit.options import Options, size_in_bytes

SPARE_THREADS = 16  # beyond the admitted requests: for /health, static files and errors
LEAST_PLACES = 256


class ServeOptions(Options, frozen=True):
    """Settings of the REST server."""

    host: Annotated[str, Meta(description="Address to listen on, several with commas; 0.0.0.0 or :: = all.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 = any free one.")] = 8080
    path: Annotated[str, Meta(description="Folder of static files; they win over the built-in page.")] = ""
    timeout: Annotated[
        float, Meta(gt=0, le=86400, description="Seconds that a connection may be silent between requests.")
    ] = 600.0
    alias: Annotated[str, Meta(description="Name of the model in answers; empty = its file's.")] = ""
    models: Annotated[dict[str, str], Meta(description="More models by name, loaded when asked for.")] = {}
    idle_unload: Annotated[
        float, Meta(ge=0, le=1e9, description="Unload a model that was not used for so many seconds; 0 = never.")
    ] = 0.0
    parallel: Annotated[int, Meta(ge=1, le=4096, description="Sequences that are generated at once.")] = 64
    queue: Annotated[int, Meta(ge=0, le=65536, description="Requests that may wait; more get status 429.")] = 256
    per_client: Annotated[
        int, Meta(ge=0, le=65536, description="Sequences of one key or address, waiting and running; 0 = any number.")
    ] = 0
    per_client_tokens: Annotated[
        int,
        Meta(ge=0, le=1 << 40, description="Tokens of the prompts of one key or address; 0 = any number."),
    ] = 0
    stall: Annotated[
        float, Meta(gt=0, le=86400, description="Seconds without a step, while there is work, until /health fails.")
    ] = 300.0
    max_predict: Annotated[
        int, Meta(ge=0, le=1 << 30, description="Most tokens of an answer without a limit; 0 = 8 times the context.")
    ] = 0
    kv_memory: Annotated[str, Meta(description="Memory for keys and values, such as 4G; empty = as needed.")] = ""
    model_draft: Annotated[str, Meta(description="A small model for speculative decoding.")] = ""
    draft: Annotated[
        int, Meta(ge=-1, le=64, description="Most tokens of speculative decoding in a step; -1 = what gains, 0 = none.")
    ] = -1
    lora: Annotated[list[str], Meta(description="LoRA adapters to load, with scale 1.")] = []
    lora_scaled: Annotated[list[tuple[str, float]], Meta(description="LoRA adapters to load, with their scales.")] = []
    lora_base: Annotated[str, Meta(description="A model of higher precision for the layers that adapters change.")] = ""
    lora_dir: Annotated[str, Meta(description="Folder of LoRA adapters that may be loaded later, by name.")] = ""
    lora_watch: Annotated[
        str, Meta(description="A training run's folder: its adapter.gguf is loaded, and again when a new one is there.")
    ] = ""
    rope_freq_base: Annotated[float, Meta(ge=0, le=1e12, description="Base of RoPE; 0 = the model's.")] = 0.0
    rope_freq_scale: Annotated[float, Meta(ge=0, le=1e6, description="Linear scale of RoPE; 0 = the model's.")] = 0.0
    api_key: Annotated[list[str], Meta(description="Keys that clients may use; none = no key is needed.")] = []
    api_key_file: Annotated[
        str,
        Meta(description="File of keys, one a line; after it roles (use, observe, admin), and weight=2 for more."),
    ] = ""
    insecure_no_key: Annotated[
        bool, Meta(description="Listen on other addresses than this machine's without an API key.")
    ] = False
    cors: Annotated[list[str], Meta(description="Origins whose pages may use the server; * = all.")] = []
    allowed_host: Annotated[list[str], Meta(description="More names that the Host header may have; * = any.")] = []
    max_body: Annotated[str, Meta(description="Largest body of a request.")] = "32M"
    connections_per_address: Annotated[
        int, Meta(ge=0, le=65536, description="Connections of one address; 0 = a quarter of all, this machine's any.")
    ] = 0
    request_memory: Annotated[
        str, Meta(description="Memory that requests may hold together, such as 2G; empty = a quarter of what is free.")
    ] = ""
    grace: Annotated[
        float, Meta(ge=0, le=86400, description="Seconds that answers may go on when the server is told to stop.")
    ] = 20.0
    ssl_cert_file: Annotated[str, Meta(description="Certificate chain for TLS, a PEM file.")] = ""
    ssl_key_file: Annotated[str, Meta(description="Private key for TLS, a PEM file.")] = ""
    n_predict: Annotated[
        int,
        Meta(
            ge=-2,
            le=1 << 30,
            description="Most tokens of an answer, and what a request gets that says nothing; -1 = no limit.",
        ),
    ] = -1
    context_shift: Annotated[
        Literal["", "on", "off"],
        Meta(description="Whether a full context drops its oldest tokens where a request does not say."),
    ] = ""
    pooling: Annotated[
        Literal["", "mean", "last", "cls"], Meta(description="Which vector of a text, in place of what the file says.")
    ] = ""
    reasoning_format: Annotated[
        Literal["auto", "deepseek", "deepseek-legacy", "none"],
        Meta(description="none: thoughts stay in the text of answers, with their markers."),
    ] = "auto"
    reasoning_budget: Annotated[
        int, Meta(ge=-1, le=1 << 30, description="0: models do not reason, where their template can say so.")
    ] = -1
    reasoning_effort: Annotated[
        str, Meta(description="How much models reason, as their template has it; empty = as the template does.")
    ] = ""
    models_dir: Annotated[str, Meta(description="Folder whose GGUF files are models, loaded when asked for.")] = ""
    slot_save_path: Annotated[str, Meta(description="Folder in which prompts are saved by /slots?action=save.")] = ""
    slots: Annotated[
        Literal["used", "all", "off"],
        Meta(description="What /slots lists: used = requests that wait or run, all = free places too, off = nothing."),
    ] = "used"
    props: Annotated[bool, Meta(description="Let POST /props change the defaults of requests.")] = False
    api_prefix: Annotated[str, Meta(description="Path that all routes have before their own.")] = ""
    no_ui: Annotated[bool, Meta(description="Serve no web page.")] = False
    metric_names: Annotated[
        Literal["llamakit", "llamacpp"],
        Meta(description="llamacpp: /metrics has the names of llama.cpp's server too, as with --metrics."),
    ] = "llamakit"
    chat_template: Annotated[
        str, Meta(description="Chat template in place of the model's: a file, its text, or a name such as chatml.")
    ] = ""
    chat_template_kwargs: Annotated[str, Meta(description="More names for the chat template, as a JSON object.")] = ""
    chat_prompt: Annotated[
        str, Meta(description="Text before every chat, in place of the model's chat template (as in the 2023 shim).")
    ] = ""
    user_name: Annotated[str, Meta(description="Before the user's words, with a chat prompt.")] = "\nUSER: "
    ai_name: Annotated[str, Meta(description="Before the answer, with a chat prompt.")] = "\nASSISTANT: "
    system_name: Annotated[str, Meta(description="Before the system's words, with a chat prompt.")] = (
        "\nASSISTANT's RULE: "
    )
    stop: Annotated[str, Meta(description="Text that ends an answer, with a chat prompt.")] = "</s>"
    mlock: Annotated[bool, Meta(description="Keep the model in memory, never swapped out.")] = False
    log_format: Annotated[Literal["text", "json"], Meta(description="Log lines for people or for programs.")] = "text"
    verbose: Annotated[bool, Meta(description="Log a line for every request.")] = False

    @property
    def template_variables(self) -> dict[str, Any]:
        """Names that chat templates get in every request."""
        quiet: dict[str, Any] = {"enable_thinking": False} if self.reasoning_budget == 0 else {}
        if self.reasoning_effort:
            quiet["reasoning_effort"] = self.reasoning_effort
        if not self.chat_template_kwargs:
            return quiet
        try:
            return quiet | msgspec.json.decode(self.chat_template_kwargs, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise UsageError(
                f"chat_template_kwargs is not a JSON object: {error}", hint='such as {"enable_thinking": false}',
                param="chat_template_kwargs",
            ) from None  # fmt: skip

    @property
    def hosts(self) -> list[str]:
        """The addresses to listen on, without brackets."""
        return [host.strip().strip("[]") for host in self.host.split(",") if host.strip()] or [""]

    @property
    def places(self) -> int:
        """Requests that are answered or wait at once; more get status 429."""
        return max(LEAST_PLACES, self.parallel + self.queue)

    @property
    def threads(self) -> int:
        """Threads that answer: each admitted request has its own, and a few are spare."""
        return self.places + SPARE_THREADS

    @property
    def memory_limit(self) -> int:
        """Bytes that requests may hold together; 0: as many as fit."""
        return size_in_bytes(self.request_memory, "request_memory") if self.request_memory else 0

    @property
    def body_limit(self) -> int:
        """Bytes that the body of a request may have."""
        return size_in_bytes(self.max_body, "max_body")
