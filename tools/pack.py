from mmqsdt.cli.pack import main

if __name__ == '__main__':
    main()
