"""The shop's site over HTTP, as its application answers."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from html import escape, unescape
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import urlopen

import pytest
from flask.testing import FlaskClient

from opid_gym.access import Access
from opid_gym_envs.webshop.env import WebShop
from opid_gym_envs.webshop.pages import PageKind
from opid_gym_envs.webshop.session import Place
from opid_gym_envs.webshop.site import SiteServer, Visits, create_app
from opid_gym_envs.webshop.site.addresses import address, read_item, read_results
from tests.patience import SECONDS
from tests.webshop.stock_data import FOLDER


@pytest.fixture(scope="module")
def shop() -> Iterator[WebShop]:
    shop = WebShop(data_dir=FOLDER)
    yield shop
    shop.close()


@pytest.fixture
def visits(shop: WebShop) -> Visits:
    return Visits(shop)


@pytest.fixture
def client(visits: Visits) -> FlaskClient:
    return create_app(visits).test_client()


def links(html: str) -> dict[str, str]:
    """Text -> address of every link."""
    found = re.findall(r'<a[^>]*? href="([^"]*)"[^>]*>([^<]*)</a>', html)
    return {unescape(text): unescape(href) for href, text in found}


def test_a_person_shops_from_the_entrance_to_the_score(client: FlaskClient, visits: Visits) -> None:
    home = client.post("/visits").headers["Location"]
    visit = visits._visits[home.rpartition("/")[2]][0]
    found = client.get(f"{home}/results?{urlencode({'q': visit.goal.name})}").text
    item = client.get(links(found)[visit.goal.asin]).text
    for _, value in visit.goal.options:
        item = client.get(links(item)[value]).text
    buy = unescape(re.findall(r'<form action="([^"]*)" method="post">', item)[0])
    done = client.get(client.post(buy).headers["Location"]).text
    assert visit.score is not None
    assert f'id="reward">{visit.score.reward}<' in done
    assert visit.goal.asin in done


def test_nothing_of_the_goal_but_the_instruction_is_told_before_the_purchase(
    client: FlaskClient, visits: Visits
) -> None:
    goal = visits.shop.task_ids.goal(visits.shop.task_ids[0])
    name, visit = visits.begin(goal)
    other = next(asin for asin in visits.shop.catalogue.asins if asin != goal.asin)
    pages = [f"/visit/{name}", f"/visit/{name}/results?q=zzzz", f"/visit/{name}/item?asin={other}&q=x"]
    for page in pages:
        answer = client.get(page)
        text = answer.text + str(answer.headers)
        assert goal.asin not in text
        assert "reward" not in text
        assert "r_type" not in text
    assert client.get(f"/visit/{name}/done").headers["Location"] == f"/visit/{name}"
    assert visit.score is None


def test_a_visit_buys_once(client: FlaskClient, visits: Visits) -> None:
    goal = visits.shop.task_ids.goal(visits.shop.task_ids[0])
    name, visit = visits.begin(goal)
    other = next(asin for asin in visits.shop.catalogue.asins if asin != goal.asin)
    client.post(f"/visit/{name}/buy?asin={other}&q=x")
    first = visit.score
    client.post(f"/visit/{name}/buy?asin={goal.asin}&q=x")
    assert visit.score is first
    assert client.get(f"/visit/{name}").headers["Location"] == f"/visit/{name}/done"


def test_a_query_is_shown_as_text_and_may_hold_anything(client: FlaskClient, visits: Visits) -> None:
    name, _ = visits.begin(visits.shop.task_ids.goal(visits.shop.task_ids[0]))
    for query in ("<script>alert(1)</script>\"'", "1/2 inch & 3/4", "?q=#%00", "日本 🙂 ñ"):
        answer = client.get(f"/visit/{name}/results?{urlencode({'q': query})}")
        assert answer.status_code == 200
        assert "<script" not in answer.text
        assert unescape(re.findall(r' value="([^"]*)"', answer.text)[0]) == query.lower()
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/item?asin=NOSUCH", "no product &#39;NOSUCH&#39;"),
        ("/results?q=a&page=0", "no page &#39;0&#39;"),
        ("/results?q=a&page=-1", "no page &#39;-1&#39;"),
        ("/results?q=a&page=9999999", "no page &#39;9999999&#39;"),
        ("/nowhere", "no page"),
    ],
)
def test_an_address_that_leads_nowhere_says_why(client: FlaskClient, visits: Visits, path: str, says: str) -> None:
    name, _ = visits.begin(visits.shop.task_ids.goal(visits.shop.task_ids[0]))
    answer = client.get(f"/visit/{name}{path}")
    assert answer.status_code == 404
    assert says in answer.text


def test_an_unknown_visit_option_or_sub_page_says_so(client: FlaskClient, visits: Visits) -> None:
    name, _ = visits.begin(visits.shop.task_ids.goal(visits.shop.task_ids[0]))
    asin = visits.shop.catalogue.asins[0]
    for path, says in (
        ("/visit/nobody", "no visit"),
        (f"/visit/{name}/item?asin={asin}&option.colour=x", "no option"),
        (f"/visit/{name}/item/secrets?asin={asin}", "no page"),
    ):
        answer = client.get(path)
        assert answer.status_code == 404
        assert says in answer.text


def test_addresses_read_back() -> None:
    shop = WebShop(data_dir=FOLDER)
    product = next(p for p in shop.catalogue if len(p.options) > 1)
    chosen = {name: values[-1] for name, values in reversed(product.options.items())}
    for kind, detail in ((PageKind.ITEM, ""), (PageKind.DETAIL, "Features")):
        place = Place(kind, "a/b & <c>", 3, product.asin, chosen, detail)
        split = urlsplit(address(place))
        fields = create_app(Visits(shop)).test_request_context(f"/x?{split.query}").request.args
        read = read_item(fields.items(multi=True), shop.catalogue, detail.lower() or None)
        assert (read, list(read.chosen)) == (place, list(chosen))
    assert read_results({"q": "A/B", "page": "2"}) == Place(PageKind.RESULTS, "a/b", 2)


def test_a_server_that_cannot_listen_says_where(shop: WebShop) -> None:
    app = create_app(Visits(shop))
    with SiteServer(app) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match=f"cannot listen on host '127.0.0.1', port {port}: Address already in use"):
            SiteServer(app, port=port)
    with pytest.raises(OSError, match=r"cannot listen on host 'nowhere\.invalid', port 0: no such host"):
        SiteServer(app, host="nowhere.invalid")


def test_a_name_with_several_addresses_is_served_at_one(shop: WebShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """As localhost where it is 127.0.0.1 and ::1, which not every machine has: hence the stand-in for the lookup."""
    look_up = socket.getaddrinfo

    def several(host: str, *arguments: Any, **named: Any) -> list[Any]:
        names = ("127.0.0.1", "127.0.0.2") if host == "localhost" else (host,)
        return [found for name in names for found in look_up(name, *arguments, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    with SiteServer(create_app(Visits(shop)), host="localhost") as server:
        assert urlopen(f"{server.url}/").status == 200


def test_a_real_server_takes_a_search_of_100_kilobytes(shop: WebShop) -> None:
    visits = Visits(shop)
    name, _ = visits.begin(shop.task_ids.goal(shop.task_ids[0]))
    with SiteServer(create_app(visits)) as server:
        connection = HTTPConnection(urlsplit(server.url).netloc)
        connection.request("GET", f"/visit/{name}/results?{urlencode({'q': 'é' * 100_000})}")
        answer = connection.getresponse()
        assert answer.status == 200
        assert b"Total results: 0" in answer.read()
        connection.close()


@pytest.mark.parametrize(
    "headers", [{"Host": "rebound.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
def test_other_sites_and_names_that_point_here_are_refused(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/visits", headers=headers).status_code == 403
    assert client.post("/visits", headers={"Origin": "http://localhost"}).status_code == 303


def test_a_browser_shows_the_token_once_and_keeps_it_out_of_addresses(visits: Visits) -> None:
    client = create_app(visits, Access(token="secret")).test_client()
    assert client.get("/").status_code == 401
    assert client.get("/?token=guess").status_code == 401
    shown = client.get("/?token=secret")
    assert (shown.status_code, shown.location) == (303, "/")
    assert "HttpOnly" in shown.headers["Set-Cookie"]
    assert client.get("/").status_code == 200
    assert client.post("/visits").status_code == 303


def test_a_body_is_limited(visits: Visits) -> None:
    with SiteServer(create_app(visits)) as server:
        connection = HTTPConnection(server.url.removeprefix("http://"), timeout=SECONDS)
        connection.request("POST", "/visits", body=b"a" * 100_000)
        assert connection.getresponse().status == 413
        connection.close()


class TestStockAddresses:
    def test_a_fixed_session_is_the_goal_of_that_number(self, client: FlaskClient, visits: Visits) -> None:
        page = client.get("/fixed_3", follow_redirects=True)
        assert page.status_code == 200
        assert visits.shop.goals[3].instruction in unescape(page.text)
        assert client.get("/fixed_3").headers["Location"] == client.get("/fixed_3").headers["Location"]
        last = len(visits.shop.goals) - 1
        missing = client.get(f"/fixed_{last + 1}", follow_redirects=True)
        assert (missing.status_code, f"the last is {last}." in missing.text) == (404, True)

    def test_results_products_and_sub_pages_are_those_of_the_session(self, client: FlaskClient, visits: Visits) -> None:
        shop = visits.shop
        product = next(product for product in shop.catalogue if product.options)
        name, values = next(iter(product.options.items()))
        words = product.title.split()[:3]
        found = client.get(f"/search_results/fixed_3/{quote(str(words))}/1", follow_redirects=True)
        assert product.asin in found.text
        assert shop.goals[3].instruction in unescape(found.text)
        options = quote(str({name: values[0]}))
        item = client.get(f"/item_page/fixed_3/{product.asin}/{quote(str(words))}/1/{options}", follow_redirects=True)
        assert (item.status_code, f'<span class="chosen">{escape(values[0])}</span>' in item.text) == (200, True)
        part = f"/item_sub_page/fixed_3/{product.asin}/{quote(str(words))}/1/Features/{{}}"
        assert client.get(part, follow_redirects=True).status_code == 200
        assert client.get(f"/done/fixed_3/{product.asin}/{options}").headers["Location"].count("/item?") == 1

    def test_what_leads_nowhere_is_explained(self, client: FlaskClient) -> None:
        for place in ("/item_page/fixed_3/B000000000/x/1/{}", "/item_page/fixed_3/B000000000/x/1/red"):
            assert client.get(place, follow_redirects=True).status_code == 404


def test_people_see_a_rounded_score_and_programs_the_exact_one(client: FlaskClient, visits: Visits) -> None:
    name, visit = visits.begin(visits.shop.goals[0])
    asin = next(asin for asin in visits.shop.catalogue.asins if asin != visit.goal.asin)
    done = client.post(f"/visit/{name}/buy?asin={asin}&q=x", follow_redirects=True).text
    assert visit.score is not None
    assert f'<span aria-hidden="true">{round(visit.score.reward, 2)}</span>' in done
    assert f'class="hidden" data-piece="2" id="reward">{visit.score.reward}<' in done
