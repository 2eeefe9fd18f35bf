"""WebShop: a shop on pages of text, in which an agent searches, compares and buys what an instruction asks for.

``catalogue`` holds the products (official files or generated ones) and ``search`` ranks them as Lucene would; pages,
goals, reward and the environment build on these.
"""

from opid_gym_envs.webshop.catalogue import Catalogue
from opid_gym_envs.webshop.product import Product

__all__ = ["Catalogue", "Product"]
