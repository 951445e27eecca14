"""ComfyUI-ReEdit: edit one picture many times, with many tools, with the latent as the document."""

from comfy_api.v0_0_2 import ComfyExtension, io

WEB_DIRECTORY = "./web"


class ReEditExtension(ComfyExtension):
    async def on_load(self) -> None:
        from .nodes.renamed import register_renamed

        await register_renamed()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .nodes import NODES

        return list(NODES)


async def comfy_entrypoint() -> ReEditExtension:
    return ReEditExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
