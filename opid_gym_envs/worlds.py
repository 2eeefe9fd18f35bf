"""The worlds of this package, as its entry points announce them; importing this module imports none of them."""

from opid_gym.registration import WorldSpec

ALFWORLD = WorldSpec(
    id="opid/ALFWorld-v0",
    world="opid_gym_envs.alfworld.env:ALFWorld",
    max_episode_steps=50,
    summary="household tasks in text, with the transcripts of stock ALFWorld",
)
SEARCHQA = WorldSpec(
    id="opid/SearchQA-v0",
    world="opid_gym_envs.searchqa.env:SearchQA",
    max_episode_steps=4,
    summary="questions to answer by searching passages, embedded or your own",
)
WEBSHOP = WorldSpec(
    id="opid/WebShop-v0",
    world="opid_gym_envs.webshop.env:WebShop",
    max_episode_steps=15,
    summary="shopping by instruction, with the pages, ranks and rewards of stock WebShop",
)
WEBSHOP_SITE = WorldSpec(
    id="opid/WebShopSite-v0",
    world="opid_gym_envs.webshop.browser:WebShopSite",
    max_episode_steps=15,
    summary="the same shop as a site, used through a real browser",
)
