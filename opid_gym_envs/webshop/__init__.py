"""WebShop: a shop on pages of text, in which an agent searches, compares and buys what an instruction asks for.

``catalogue`` holds the products (official files or generated ones) and ``search`` ranks them as Lucene would. ``goals``
says what is wanted, ``session`` plays one shopper's visit, ``pages`` prints it and ``reward`` judges the purchase;
``env`` is all of it as a world.
"""

from opid_gym_envs.webshop.catalogue import Catalogue
from opid_gym_envs.webshop.product import Product

__all__ = ["Catalogue", "Product"]
