"""The demo family as a custom-node folder of its own: it brings no node, only models that the stock loaders then know.

Only dev.py and the tests link it into a host. See README.md beside this file.
"""


async def comfy_entrypoint():
    # Imported here and not above, so that the drawn world can be used where there is no host.
    from comfy_api.v0_0_2 import ComfyExtension

    from . import family

    class TinySDExtension(ComfyExtension):
        async def get_node_list(self):
            return []

    family.register()
    return TinySDExtension()
