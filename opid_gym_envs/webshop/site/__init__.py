"""The shop as a web site: the same sessions and pages as the text environment, for people and for browsers.

An address says where a visit stands, a link is where a click leads, and the server keeps no more of a visit than its
goal and what was bought. So the browser's back button, bookmarks and several tabs work, and so does a shop without
scripts: there are none. Nothing is loaded from another machine.

`opid-gym serve webshop` starts it, `create_app` makes it as a Flask application.
"""

from opid_gym.named import missing_extra

try:
    from opid_gym_envs.webshop.site.app import create_app
    from opid_gym_envs.webshop.site.server import SiteServer
    from opid_gym_envs.webshop.site.visits import Visits
except ModuleNotFoundError as error:
    raise missing_extra("the shop's site", error.name or "flask", "webshop") from None

__all__ = ["SiteServer", "Visits", "create_app"]
