"""Tests of the routes. This file is yours."""

from fastapi.testclient import TestClient


def test_the_first_page_leads_to_the_docs(client: TestClient) -> None:
    response = client.get("/")

    assert response.status_code == 200
    assert client.get(response.json()["routes"]).status_code == 200


def test_a_probe_is_answered(client: TestClient) -> None:
    response = client.get("/healthz")

    assert response.status_code == 200
    assert response.json() == {"status": "ok"}
    assert client.head("/healthz").status_code == 200


def test_an_order_is_created(client: TestClient) -> None:
    response = client.post("/orders", json={"item": "onion", "quantity": 3})

    assert response.status_code == 201
    assert response.json() == {"item": "onion", "quantity": 3}


def test_an_order_without_quantity_is_refused(client: TestClient) -> None:
    response = client.post("/orders", json={"item": "onion"})

    assert response.status_code == 422
