"""A Django project with outbox.django in it, and the tests that run inside it."""
